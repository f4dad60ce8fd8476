"""The chat as a web page: its server (`server`), the page itself (`page`), what it shows (`view`, `style.css`), who talks
(`visitors`), and what of it can be reached (`gate`).
"""

from empathy_trl.chat.web.server import serve as serve
