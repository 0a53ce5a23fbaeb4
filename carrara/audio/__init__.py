"""Files to samples: decoding, resampling, windows. No torch."""
