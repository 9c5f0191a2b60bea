"""Views that change statuses: actions, webhooks, and both mechanisms in one."""

from __future__ import annotations

from django.urls import path
from rest_framework.decorators import action
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView
from rest_framework.viewsets import ModelViewSet

from idempotency.mixins import IdempotencyKeyMixin, IdempotencyTransitionMixin
from tests.project.models import NumberedParcel, Order, Parcel, ParkingParcel


class ParcelViewSet(IdempotencyTransitionMixin, ModelViewSet):
    queryset = ParkingParcel.objects.all()

    @action(detail=True, methods=["post"])
    def pack(self, request, pk=None):
        return self.transition(self.get_object(), "packed")

    @action(detail=True, methods=["post"])
    def send(self, request, pk=None):
        return self.transition(self.get_object(), "sent")

    @action(detail=True, methods=["post"])
    def pack_and_order(self, request, pk=None):
        with self.get_object().transition("packed", event_id=self.get_transition_event_id(request)) as change:
            Order.objects.create(reference=f"from {change.from_status}")
        return Response({"packed": True})


class KeyedParcelViewSet(IdempotencyKeyMixin, ParcelViewSet):
    """Answers of its own, which are stored."""

    def get_transition_response(self, instance, outcome, entry):
        return Response({"reference": instance.reference, "orders": Order.objects.count()})


class KeyedView(IdempotencyKeyMixin, APIView):
    """Knows statuses by the model alone."""

    def post(self, request, pk):
        Order.objects.create(reference="written before")
        Parcel.objects.get(pk=pk).transition_to("sent")
        return Response({"sent": True})


class ParcelEvents(IdempotencyTransitionMixin, APIView):
    def get_transition_event_id(self, request):
        return request.data.get("event")

    def get_transition_sequence(self, request):
        return request.data.get("number")

    def post(self, request):
        model = NumberedParcel if "number" in request.data else ParkingParcel
        defaults = {} if request.data.get("new") else None
        return self.receive(model, request.data["parcel"], request.data["status"], defaults=defaults)


router = SimpleRouter()
router.register("parcels", ParcelViewSet, basename="parcel")
router.register("keyed-parcels", KeyedParcelViewSet, basename="keyed-parcel")
urlpatterns = [
    path("parcel-events/", ParcelEvents.as_view()),
    path("keyed-view/<int:pk>/", KeyedView.as_view()),
    *router.urls,
]
