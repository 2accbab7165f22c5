"""What happens, told to people and machines: logs now; metrics and traces stand beside them."""
