"""`python -m benches`, which is `make bench`. It measures this machine, beside other software."""
