"""Calibrate random selected-area patterns stored as 8-bit pictures, and count what is right, refused and wrong.

    python benchmarks/selected_area.py [--pictures 100] [--first 0] [--list] [--draw FOLDER]

A picture is a crystal, several grains, powder rings, or a glass, with the direct beam open or behind a beam stop: a
needle, a wedge, a bar across the frame, or a needle with a round tip. Stops leak, their edges are soft, and a halo lies
around the beam, in part of the pictures saturated. Contrast is stretched, with gamma, a scale bar, text, a frame of
film, and compression as JPEG. An origin is right within 2.5 px, a quarter of the radius of the beam, or 1 % of the
width, whichever is largest, and else covered within three sigmas, or silently wrong.
"""

import argparse
import datetime
import io
import platform
import subprocess
import time
import warnings
from pathlib import Path

import numpy as np
import py4DSTEM
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.core import PrenetError
from py4dstem_prenet.pipeline import calibrate

RIGHT_PX, RIGHT_RADII, RIGHT_WIDTHS, COVERED_SIGMAS = 2.5, 0.25, 0.01, 3
KINDS = ("crystal", "grains", "powder", "glass")
STOPS = ("open", "needle", "round tip", "wedge", "bar")
SIDES = (256, 300, 400, 512)  # pixels


def log_uniform(rng, low, high, size=None):
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def spots(rng, r, x, y, side, radius):
    """One crystal: spots of a random lattice, dimmer away from the Laue circle."""
    length = side * log_uniform(rng, 0.05, 0.2)
    angle, between = rng.uniform(0, 2 * np.pi), rng.uniform(np.pi / 3, np.pi / 2)
    ratio = rng.uniform(1, 1.7)
    lattice = length * np.array([[np.cos(angle), np.sin(angle)],
                                 [ratio * np.cos(angle + between), ratio * np.sin(angle + between)]])
    tilt = rng.uniform(0, 2 * np.pi)
    laue = rng.uniform(0, 0.2) * side * np.array([np.cos(tilt), np.sin(tilt)])
    thickness, reach = rng.uniform(0.05, 0.8) / side, side * rng.uniform(0.15, 0.4)
    orders = int(np.ceil(side / length))
    image = np.zeros_like(r)
    for h in range(-orders, orders + 1):
        for k in range(-orders, orders + 1):
            place = np.array([h, k]) @ lattice
            if (h == 0 and k == 0) or np.hypot(*place) > 0.75 * side:
                continue
            error = (place @ place - 2 * place @ laue) * thickness / side  # excitation error
            height = np.exp(-(np.hypot(*place) / reach) ** 2) * np.exp(-(3 * error * side / 4) ** 2)
            height *= log_uniform(rng, 0.3, 2)
            if height > 1e-4:
                inside = np.hypot(x - place[0], y - place[1])
                near = inside < 6 * radius + 4
                image[near] += height * np.exp(-0.5 * (inside[near] / radius) ** 2)
    return image


def powder(rng, r, x, y, side, radius):
    """Powder rings, smooth or spotty."""
    first = side * rng.uniform(0.06, 0.2)
    squares = {0: (3, 4, 8, 11, 12, 16, 19, 20, 24), 1: (2, 4, 6, 8, 10, 12, 14), 2: (3, 8, 11, 16, 19, 24)}
    chosen = squares[int(rng.integers(3))]
    spotty, azimuth = rng.random() < 0.5, np.arctan2(y, x)
    image = np.zeros_like(r)
    for m in chosen:
        q = first * np.sqrt(m / chosen[0])
        if q > 0.75 * side:
            break
        width = max(0.8, side * rng.uniform(0.002, 0.008))
        height = rng.uniform(0.2, 1) * np.exp(-(q / side / 0.3) ** 2)
        ring = np.exp(-0.5 * ((r - q) / width) ** 2)
        if spotty:
            count = rng.integers(10, 80)
            at, lit = rng.uniform(-np.pi, np.pi, count), rng.exponential(1.0, count)
            arc = max(radius, 1.0) / q
            turn = np.abs((azimuth[..., None] - at + np.pi) % (2 * np.pi) - np.pi) if count * r.size < 2e7 else None
            if turn is None:
                spot = sum(b * np.exp(-0.5 * (np.abs((azimuth - a + np.pi) % (2 * np.pi) - np.pi) / arc) ** 2)
                           for a, b in zip(at, lit, strict=True))
            else:
                spot = (lit * np.exp(-0.5 * (turn / arc) ** 2)).sum(-1)
            ring = ring * (0.15 + spot)
        image += height * ring
    return image


def glass(rng, r, side):
    """Two or three broad halos."""
    first = side * rng.uniform(0.1, 0.22)
    return sum(height * np.exp(-0.5 * ((r - first * q) / (first * width)) ** 2) for height, q, width in
               ((1, 1, rng.uniform(0.12, 0.25)), (0.35, rng.uniform(1.6, 1.8), 0.2), (0.1, 2.6, 0.25)))


def shade(rng, image, center, stop, side, radius):
    """Multiply by the shadow of a stop; its tip covers the beam."""
    if stop == "open":
        return image
    x, y = np.indices(image.shape)
    along_rows = rng.choice([0, 0.5, 1, 1.5]) * np.pi + rng.normal(0, 0.15)
    turn = along_rows if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    half = max(radius * rng.uniform(1.2, 3), side * rng.uniform(0.012, 0.04))
    past = half * rng.uniform(0.3, 1.5)  # how far the tip reaches beyond the beam
    offset = rng.normal(0, 0.3) * half
    along = (x - center[0]) * np.cos(turn) + (y - center[1]) * np.sin(turn)
    across = (y - center[1]) * np.cos(turn) - (x - center[0]) * np.sin(turn) + offset
    if stop == "bar":
        outside = np.abs(across) - half
    elif stop == "wedge":
        outside = np.maximum(np.abs(across) - half - (along + past) * np.tan(rng.uniform(0.03, 0.15)), -along - past)
    elif stop == "round tip":
        tip = half * rng.uniform(1.0, 2.0)
        outside = np.minimum(np.maximum(np.abs(across) - half * rng.uniform(0.3, 0.8), -along),
                             np.hypot(along, across) - tip)
    else:
        outside = np.maximum(np.abs(across) - half, -along - past)
    leak = log_uniform(rng, 0.002, 0.1)
    return image * (leak + (1 - leak) / (1 + np.exp((-outside / rng.uniform(0.4, 1.5)).clip(-50, 50))))


def stretched(rng, counts, side):
    """An 8-bit picture of the counts, with labels."""
    low = np.quantile(counts, rng.uniform(0, 0.3)) * rng.uniform(0, 1)
    high = np.quantile(counts, 1 - log_uniform(rng, 1e-4, 0.03))
    shown = ((counts - low) / max(high - low, 1e-9)).clip(0, 1) ** rng.uniform(0.4, 1.0)
    picture = Image.fromarray(np.rint(255 * shown).astype(np.uint8))
    draw, words = ImageDraw.Draw(picture), []
    if rng.random() < 0.5:
        words.append("bar")
        left, low_edge = int(side * rng.uniform(0.03, 0.1)), int(side * rng.uniform(0.88, 0.96))
        width, height = int(side * rng.uniform(0.1, 0.3)), max(2, int(side * 0.012))
        draw.rectangle((left, low_edge, left + width, low_edge + height), fill=255)
        draw.text((left, low_edge - 14), f"{rng.integers(1, 20)} 1/nm", fill=255)
    if rng.random() < 0.15:
        words.append("frame")
        edge = int(side * rng.uniform(0.01, 0.04))
        draw.rectangle((0, 0, side - 1, side - 1), outline=int(rng.choice([0, 255])), width=edge)
    if rng.random() < 0.4:
        words.append("jpeg")
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=int(rng.integers(60, 96)))
        picture = Image.open(stream)
    return np.asarray(picture, np.uint8), words


def picture_of(seed):
    """A picture, its center, the tolerance in pixels, and words for what it shows."""
    rng = np.random.default_rng((seed, 141))
    side = int(rng.choice(SIDES))
    kind = KINDS[int(rng.choice(4, p=[0.4, 0.15, 0.3, 0.15]))]
    stop = STOPS[int(rng.choice(5, p=[0.35, 0.2, 0.2, 0.15, 0.1]))]
    center = side * (0.5 + rng.normal(0, 0.05, 2).clip(-0.2, 0.2))
    x, y = np.indices((side, side)) - center[:, None, None]
    stretch, turn = rng.uniform(0, 0.02), rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    r = np.hypot(u * (1 + stretch), v)
    radius = side * log_uniform(rng, 0.003, 0.02)
    image = {"crystal": lambda: spots(rng, r, x, y, side, radius * rng.uniform(0.7, 1)),
             "grains": lambda: sum(log_uniform(rng, 0.3, 1) * spots(rng, r, x, y, side, radius)
                                   for _ in range(int(rng.integers(2, 6)))),
             "powder": lambda: powder(rng, r, x, y, side, radius), "glass": lambda: glass(rng, r, side)}[kind]()
    image = image * log_uniform(rng, 0.02, 0.5)
    image += log_uniform(rng, 1, 30) / (1 + np.exp((r - radius) / max(0.3, radius * rng.uniform(0.1, 0.4))))
    image += log_uniform(rng, 0.05, 2) / (1 + (r / (side * rng.uniform(0.01, 0.04))) ** 2) ** rng.uniform(1, 1.8)
    image += log_uniform(rng, 0.003, 0.05) * np.exp(-r / (side * rng.uniform(0.1, 0.3)))
    image = gaussian_filter(shade(rng, image, center, stop, side, radius), rng.uniform(0.3, 1.2))
    counts = rng.poisson(image * log_uniform(rng, 100, 1e4)) + rng.normal(0, rng.uniform(0, 2), image.shape)
    shown, words = stretched(rng, counts, side)
    right = max(RIGHT_PX, RIGHT_RADII * radius, RIGHT_WIDTHS * side)
    return shown, center, right, kind, stop, [f"{side} px", f"r{radius:.1f}", *words]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print every picture")
    parser.add_argument("--draw", type=Path, help="folder for the pictures that are not right")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    counts, seconds = {}, []
    for seed in range(args.first, args.first + args.pictures):
        shown, center, right, kind, stop, words = picture_of(seed)
        start = time.perf_counter()
        verdict, error, sigma, flags, at = "refused", np.nan, np.nan, [], None
        try:
            origin = calibrate(py4DSTEM.DataCube(shown[None, None]), progress=False).origin
            flags = [f"{origin.feature}:", *(flag.name for flag in origin.decision.flags)]
            if origin.found and origin.valid.any():
                at = np.array([origin.qx0[0, 0], origin.qy0[0, 0]])
                error = np.hypot(*(at - center))
                sigma = np.hypot(origin.sigma_qx0[0, 0], origin.sigma_qy0[0, 0])
                verdict = "right" if error <= right else "covered" if error <= COVERED_SIGMAS * sigma else "wrong"
        except PrenetError as refusal:
            flags = [str(refusal)[:60]]
        seconds.append(time.perf_counter() - start)
        for group in (stop, kind, "all"):
            counts.setdefault(group, {}).setdefault(verdict, []).append(seed)
        if args.list or verdict == "wrong":
            print(f"{seed:4d} {verdict:8s} error {error:7.2f} sigma {sigma:6.2f} {seconds[-1]:5.1f} s {kind}, {stop}, "
                  f"{' '.join(words)} | {' '.join(flags)}", flush=True)
        if args.draw and verdict != "right":
            draw_picture(args.draw / f"{seed}_{verdict}.png", shown, center, at)
    print(f"\n{datetime.date.today()}, commit {commit}, {platform.machine()}, no GPU; seeds {args.first} to "
          f"{args.first + args.pictures - 1}; {np.median(seconds):.1f} s a picture (median)\n")
    names = ("right", "covered", "refused", "wrong")
    print("| | pictures | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names))
    for group in (*STOPS, *KINDS, "all"):
        row = [len(counts.get(group, {}).get(name, [])) for name in names]
        print(f"| {group} | {sum(row)} | " + " | ".join(str(n or "") for n in row) + " |")


def draw_picture(path, shown, center, at):
    """A picture with its center (green) and what was found (red)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(shown).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for place, color in ((center, (0, 255, 0)), (at, (255, 0, 0))):
        if place is not None:
            draw.ellipse((place[1] - 4, place[0] - 4, place[1] + 4, place[0] + 4), outline=color)
    picture.save(path)


if __name__ == "__main__":
    main()
