"""The web page's texts, templates and rendering.  It is complete without JavaScript; the one
small script adds search while typing and copying to the clipboard."""
