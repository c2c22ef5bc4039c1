"""How routes come into an application: as they are, each with what it refuses."""

from fastapi.routing import APIRoute

from creditfold.api import create_app
from creditfold.api.requests import checked
from creditfold.api.routes import Route
from creditfold.common.settings import Settings
from creditfold.console.app import install


def routes() -> list[APIRoute]:
    """The routes of an application with pages."""
    return [route for route in create_app(Settings(), install=install).router.routes if isinstance(route, APIRoute)]


def test_each_route_refuses_parameters_that_it_does_not_take() -> None:
    """By a dependency, or by itself."""
    unchecked = [
        route.path
        for route in routes()
        if not isinstance(route, Route) and checked not in [one.call for one in route.dependant.dependencies]
    ]
    assert unchecked == []


def test_no_route_is_made_anew_for_an_application() -> None:
    """It would be at the first request, which would wait for all of them."""
    # Both are kept while they are compared: one that is gone may leave its place to another.
    of_one, of_another = routes(), routes()
    assert len(of_one) > 100
    assert [id(route) for route in of_one] == [id(route) for route in of_another]
