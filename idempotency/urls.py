from django.urls import path

from idempotency.views import TokenView

app_name = "idempotency"
urlpatterns = [path("tokens/", TokenView.as_view(), name="tokens")]
