"""`sidestep dump --workers N`: several mitmdump processes share a port; what starts, replaces and ends them."""
