"""The report's figures: in each module one function gives the table and one draws it."""
