"""Charts, tables and pages from plain records; nothing here knows of cells or networks."""
