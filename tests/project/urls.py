from django.contrib import admin
from django.urls import include, path
from rest_framework.routers import SimpleRouter

from tests.project import paying, status_views, token_views, views

router = SimpleRouter()
router.register("order-set", views.OrderViewSet, basename="order-set")
router.register("locking-set", views.LockingOrderViewSet, basename="locking-set")
router.register("hidden-set", views.HiddenOrderViewSet, basename="hidden-set")

urlpatterns = [
    path("admin/", admin.site.urls),
    path("orders/", views.OrderView.as_view()),
    path("orders/<int:pk>/", views.OrderView.as_view()),
    path("other-orders/", views.OrderView.as_view()),
    path("waiting/", views.WaitingView.as_view()),
    path("optional/", views.OptionalView.as_view()),
    path("bodiless/", views.BodilessView.as_view()),
    path("anonymous/", views.AnonymousView.as_view()),
    path("nobody/", views.NobodyView.as_view()),
    path("deleting/", views.DeletingView.as_view()),
    path("business-key/", views.BusinessKeyView.as_view()),
    path("tenant/", views.TenantView.as_view()),
    path("throttled/", views.ThrottledView.as_view()),
    path("revocable/", views.GuardedByPermissionView.as_view()),
    path("uploads/", views.UploadView.as_view()),
    path("audited/", views.AuditedView.as_view()),
    path("counting/", views.CountingView.as_view()),
    path("nesting/", views.NestingView.as_view()),
    path("implicit-commit/", views.ImplicitCommitView.as_view()),
    path("unsaved-scope/", views.UnsavedScopeView.as_view()),
    path("plain/", views.plain),
    path("async/", views.asynchronous),
    path("above/", views.decorated_above),
    path("below/", views.decorated_below),
    *(path(f"pay-{meaning}/", view.as_view()) for meaning, view in paying.VIEWS.items()),
    path("idempotency/", include("idempotency.urls")),
    *token_views.urlpatterns,
    *status_views.urlpatterns,
    *router.urls,
]
