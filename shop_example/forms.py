from __future__ import annotations

from django import forms

from shop_example.models import Product

MOST = 1_000


class ProductField(forms.ModelChoiceField):
    def label_from_instance(self, product: Product) -> str:
        return f"{product.name} ({product.price} each)"


class CheckoutForm(forms.Form):
    product = ProductField(Product.objects.all(), empty_label=None)
    quantity = forms.IntegerField(min_value=1, max_value=MOST, initial=1)
