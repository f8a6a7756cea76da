"""Multi-crop views on whole batches: crops, colour, blur."""
