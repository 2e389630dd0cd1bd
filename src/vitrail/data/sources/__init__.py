"""Where images and labels come from, one file a source; `vitrail.data.open` chooses between them."""
