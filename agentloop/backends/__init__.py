"""Model providers behind `agentloop.ports.Backend`; each knows only itself."""
