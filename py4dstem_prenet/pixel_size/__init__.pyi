from .disks import find_disks as find_disks, pool_disks as pool_disks
from .measure import measure_pixel_size as measure_pixel_size, measure_pooled_size as measure_pooled_size
from .standards import STANDARDS as STANDARDS, Standard as Standard, find_standard as find_standard
