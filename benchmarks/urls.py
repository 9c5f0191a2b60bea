from django.conf import settings
from django.urls import path

from benchmarks import views
from benchmarks.others import guarded_views

urlpatterns = [
    path("bare/", views.BareView.as_view()),
    path("insert/", views.InsertingView.as_view()),
    path("lookup/", views.LookupView.as_view()),
    path("guarded/", views.GuardedView.as_view()),
    path("leased/", views.LeasedView.as_view()),
    path("leased-again/", views.LeasedView.as_view(idempotency_rerun=True)),
    path("stepped/", views.SteppedView.as_view()),
    path("token/", views.TokenView.as_view()),
    path("restoring/", views.RestoringView.as_view()),
    path("joint/", views.JointView.as_view()),
    path("token-and-key/", views.TokenAndKeyView.as_view()),
    path("bare-flat/", views.BareView.as_view(atomic=False)),
    path("guarded-flat/", views.GuardedView.as_view(atomic=False)),
    *(path("other/", view) for view in guarded_views(settings.PACKAGE)),
]
