"""What backends share, without knowing any provider: names, tool schemas, media."""
