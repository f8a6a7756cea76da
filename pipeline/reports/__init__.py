"""Tables, figures, Markdown and HTML; our numbers beside the paper's."""
