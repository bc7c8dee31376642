"""What every room stands on: errors, whole files, progress, reports, confidence intervals."""
