"""How pages write times where a template says no more: `FORMAT_MODULE_PATH`."""
