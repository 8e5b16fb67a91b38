"""The page's own code, behind `app.py`, which lays it out.

    files ─ reading ─→ arrays ─ events (network) ─→ Study, kept in a Session ─ views ─→ HTML
                                                                             └ downloads ─→ files to take away

A visitor's state is one `Session` (sessions.py), which says what is newest where requests overtake each other.
What there is to compute about a slice is computed in `modeling_unet`. Opacity, style, colour, hiding, zoom, window and
ruler are left to the browser (page.css, scripts), so that they never ask the server. HTML that the static page shares
is in parts. What others see of the page, link previews and the words of the API page, is in outside.py.
"""
