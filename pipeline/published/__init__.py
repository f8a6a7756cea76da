"""Our numbers beside the paper's: claims, tables, charts, the page over all of them."""
