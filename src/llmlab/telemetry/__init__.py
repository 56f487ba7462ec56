"""What happens on this machine over time: sources, a sampler, series, recordings."""
