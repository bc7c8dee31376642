"""Images in tar archives, as WebDataset has them: data that is read in large pieces, from here or from elsewhere."""
