"""What `make book` tells Jupyter's server: send each message at once.

The network else holds back a small message until the one before is acknowledged: some 20 ms and more between
a drag in an explorer and its picture.
"""

from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection


class Prompt(ZMQChannelsWebsocketConnection):
    def connect(self) -> Any:
        self.websocket_handler.set_nodelay(True)
        return super().connect()


if "c" in globals():  # Jupyter's; who only imports this file has none
    c.ServerApp.kernel_websocket_connection_class = Prompt  # noqa: F821
