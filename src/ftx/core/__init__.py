"""What every package needs: errors, whole files, progress, reports, confidence intervals."""
