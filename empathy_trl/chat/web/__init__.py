"""The chat as a web page: its server (`server`), the page itself (`page`), what it shows (`view`, `style.css`), and who talks
(`visitors`).
"""

from empathy_trl.chat.web.server import serve as serve
