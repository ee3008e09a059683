"""What each method of training does to memorization: the same planted films, the same number of seen samples, one table."""
