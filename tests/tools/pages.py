"""Open a page of the lab without a browser."""

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
