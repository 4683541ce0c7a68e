"""What stands on the page: figures, widgets, pictures that move without a kernel, and the lines that check a claim."""
