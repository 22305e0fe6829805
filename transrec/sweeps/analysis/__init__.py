"""Analysis of a sweep's results: laws, comparisons and crossings, with their uncertainty."""
