"""Results of a sweep: laws, comparisons, crossings, and how sure they are."""
