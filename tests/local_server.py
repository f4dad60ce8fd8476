"""What the tests' servers have in common: they run in a thread while a `with` block lasts."""

import threading


class LocalServer:
    """Serves `self.http`, which a subclass makes, inside a `with` block."""

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()
