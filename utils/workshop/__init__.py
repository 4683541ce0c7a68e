"""What only a maintainer runs: how everything in `data/` was made. Nothing a student reads imports it."""
