"""Open a page of the lab without a browser."""

import json

from streamlit.testing.v1 import AppTest

from tests.tools.server import ROOT


def open_lab_page(name: str, timeout: float = 120, **address: str) -> AppTest:
    """The page labs/`name`.py, opened from the lab's front door with these parameters in its address."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=timeout)
    app.run()
    for key, value in address.items():
        app.query_params[key] = value
    app.switch_page(f"labs/{name}.py").run()
    assert not app.exception
    return app


def shown(app: AppTest) -> str:
    """What the page says, as one text."""
    kinds = (app.markdown, app.warning, app.info, app.success, app.caption)
    return "\n".join(element.value for kind in kinds for element in kind)


def given_to_players(app: AppTest) -> list[dict]:
    """What the players on the page were given, each with its "trace"."""
    return [
        json.loads(part.proto.mixed.json if part.proto.HasField("mixed") else part.proto.json)
        for part in app.get("bidi_component")
        if part.proto.component_name.endswith("cllab_player")
    ]


def press(app: AppTest, label: str) -> None:
    """Click the button that reads so; the page must show no exception."""
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception
