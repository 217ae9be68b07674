"""Limits that all tests of a detector share: significance of pixels and groups of pixels, and fewest electrons."""

PIXEL_SIGMAS = 6.0  # standard deviations; smallest deviation of a single pixel: false alarm in 1 of 10^9 pixels
MEAN_SIGMAS = 4.0  # standard errors; smallest deviation of a mean of many pixels, or of a slope fitted to them
MIN_PIXEL_ELECTRONS = 10.0  # electrons; smallest signal or excess of a pixel in a pattern: noise of less is skewed
MIN_SAMPLE_ELECTRONS = 30  # electrons; smallest signal or excess of a pixel in the sample: noise of less is not normal
MIN_MEAN_PATTERNS = 4  # patterns; fewest from which the mean of a pixel can be distinguished from its noise
