from django.contrib import admin
from django.urls import include, path
from rest_framework.authtoken.views import obtain_auth_token
from rest_framework.routers import DefaultRouter, SimpleRouter

from shop_example import views

guarded = DefaultRouter()
guarded.register("products", views.ProductViewSet)
guarded.register("orders", views.OrderViewSet)
guarded.register("stock-deductions", views.StockDeductionViewSet)
guarded.register("payments", views.PaymentViewSet)

unguarded = SimpleRouter()
unguarded.register("orders", views.UnguardedOrderViewSet, basename="unguarded-order")
unguarded.register(
    "stock-deductions", views.UnguardedStockDeductionViewSet, basename="unguarded-stockdeduction"
)
unguarded.register("payments", views.UnguardedPaymentViewSet, basename="unguarded-payment")

urlpatterns = [
    path("", views.LandingPage.as_view(), name="landing-page"),
    path("admin/", admin.site.urls),
    path("api/sign-in/", obtain_auth_token, name="sign-in"),
    path("api/account/", views.AccountView.as_view(), name="account"),
    path("api/unguarded/", include(unguarded.urls)),
    path("api/", include(guarded.urls)),
    # Sign-in of the browsable API.
    path("api-auth/", include("rest_framework.urls")),
]
