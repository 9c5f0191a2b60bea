from django.urls import path

from tests.processes import views
from tests.project.urls import urlpatterns as project_urls

urlpatterns = [
    path("race/", views.RaceView.as_view()),
    *(
        path(f"{alias}/{path_of_view}/", view.as_view(idempotency_token_alias=alias, **options))
        for alias in ("default", "redis")
        for path_of_view, view, options in (
            ("token-race", views.TokenRaceView, {}),
            ("restored-token-race", views.TokenRaceView, {"idempotency_token_on_failure": "restore"}),
            ("token-and-key-race", views.TokenAndKeyRaceView, {}),
        )
    ),
    path("lease-race/", views.LeaseRaceView.as_view()),
    path("waiting-race/", views.WaitingRaceView.as_view()),
    path("transfers/", views.TransferView.as_view()),
    *project_urls,
]
