"""Turns a work directory into one page, pictures and tables: `page.write(workdir)`, `tables.pareto_table(run)`."""
