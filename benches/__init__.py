"""`python -m benches`, which is `make bench`. The bench itself is `signedwire.bench`."""
