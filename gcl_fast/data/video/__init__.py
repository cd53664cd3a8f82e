"""Cut crops from videos, by the boxes that a tracker wrote."""
