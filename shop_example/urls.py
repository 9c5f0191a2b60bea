from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path
from rest_framework.authtoken.views import obtain_auth_token
from rest_framework.routers import DefaultRouter, SimpleRouter

from shop_example import card_views, pages, views
from shop_example.order_events import OrderEventView, UnguardedOrderEventView

guarded = DefaultRouter()
guarded.register("products", views.ProductViewSet)
guarded.register("orders", views.OrderViewSet)
guarded.register("stock-deductions", views.StockDeductionViewSet)
guarded.register("payments", views.PaymentViewSet)
guarded.register("card-payments", card_views.CardPaymentViewSet)
guarded.register("card-refunds", card_views.CardRefundViewSet, basename="card-refund")
guarded.register("checkouts", views.CheckoutViewSet, basename="api-checkout")

unguarded = SimpleRouter()
unguarded.register("orders", views.UnguardedOrderViewSet, basename="unguarded-order")
unguarded.register(
    "stock-deductions", views.UnguardedStockDeductionViewSet, basename="unguarded-stockdeduction"
)
unguarded.register("payments", views.UnguardedPaymentViewSet, basename="unguarded-payment")
unguarded.register("card-payments", card_views.UnguardedCardPaymentViewSet, basename="unguarded-cardpayment")
unguarded.register("card-refunds", card_views.UnguardedCardRefundViewSet, basename="unguarded-card-refund")
unguarded.register("checkouts", views.UnguardedCheckoutViewSet, basename="unguarded-api-checkout")

urlpatterns = [
    path("", views.LandingPage.as_view(), name="landing-page"),
    path("sign-in/", LoginView.as_view(template_name="shop_example/sign_in.html"), name="login"),
    path("sign-out/", LogoutView.as_view(), name="logout"),
    path("checkout/", pages.checkout, name="checkout"),
    path("checkout/<int:pk>/", pages.receipt, name="receipt"),
    path("unguarded/checkout/", pages.unguarded_checkout, name="unguarded-checkout"),
    path("admin/", admin.site.urls),
    path("api/sign-in/", obtain_auth_token, name="sign-in"),
    path("api/account/", views.AccountView.as_view(), name="account"),
    path("api/order-events/", OrderEventView.as_view(), name="order-events"),
    path("api/unguarded/order-events/", UnguardedOrderEventView.as_view(), name="unguarded-order-events"),
    path("api/unguarded/", include(unguarded.urls)),
    path("api/", include(guarded.urls)),
    # Where one-time tokens are fetched.
    path("idempotency/", include("idempotency.urls")),
    # Sign-in of the browsable API.
    path("api-auth/", include("rest_framework.urls")),
]
