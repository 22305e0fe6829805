"""Many runs of one design: what a sweep file says, the trials that follow from it, and what became of them."""
