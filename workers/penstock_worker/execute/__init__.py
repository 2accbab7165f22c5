"""One batch on the device: prepare, predict, conclude, settle."""
