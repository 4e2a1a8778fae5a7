"""The sections of the page that `wardround explain` writes for the hospital's own eyes."""
