"""The commands about generations and their proof."""
