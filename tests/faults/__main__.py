"""`python tests/faults`: try all faults, and write docs/faults.md."""

import sys
from pathlib import Path

if __name__ == "__main__":
    tests, root = Path(__file__).parents[1:3]
    sys.path[:0] = [str(tests), str(root)]
    from faults.cases import CASES, document

    page = root / "docs" / "faults.md"
    page.write_text(document(), encoding="utf-8")
    print(f"{len(CASES)} faults in {page}")
