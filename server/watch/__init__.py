"""The live view: a page that follows the journal of a run while it goes on."""
