"""Pure array functions: no modules, no configuration."""
