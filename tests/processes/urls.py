from django.urls import path

from tests.processes import views
from tests.project.urls import urlpatterns as project_urls

urlpatterns = [
    path("race/", views.RaceView.as_view()),
    path("waiting-race/", views.WaitingRaceView.as_view()),
    path("transfers/", views.TransferView.as_view()),
    *project_urls,
]
