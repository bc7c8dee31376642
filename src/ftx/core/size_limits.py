"""How large the parts of a model can be: what a stranger's file, or a slip of the keyboard, must not go beyond.

Each lies well above what models have, and below what would take all the memory before anything else is checked.
"""

from __future__ import annotations

# A side in pixels of the image that goes into a network: timm's largest is 1,024, and at this one an image takes 200 MB
# in f32.
MOST_SIDE = 4096
# The sides of what an image is resized to before the centre is cut out of it.
MOST_BOX = 2 * MOST_SIDE
# The mean and the std of a channel on the 0..1 scale: what is normalised by them stays far from the ends of f32.
# timm's lie between 0 and 1; a network that was trained on grey levels up to 255 has a std of 1/255.
MOST_MEAN = 1_000.0
LEAST_STD, MOST_STD = 1e-4, 1_000.0
# Logits; the widest head of timm has 21,843.
MOST_LABELS = 65_536
# Labels above each other in a tree; WordNet's deepest noun has 19, the tree of life's some 40.
MOST_TREE_LEVELS = 100
# A rank of an adapter, a width, a number of tokens or of heads.
MOST_WIDTH = 65_536
# Blocks of a network; more than any has.
MOST_DEPTH = 10_000
# Characters of a regular expression; that of all layers of timm's deepest model has some ten thousand.
MOST_EXPRESSION = 65_536
