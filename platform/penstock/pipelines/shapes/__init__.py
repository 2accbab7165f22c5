"""What is known of values before there are any: whether steps can be given what they are given. PURE."""
