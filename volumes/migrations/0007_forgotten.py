import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("volumes", "0006_damaged")]

    operations = [
        migrations.CreateModel(
            name="ForgottenServer",
            fields=[
                ("id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ("node", models.CharField(max_length=64)),
                ("forgotten_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                (
                    "traffic",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        editable=False,
                        help_text="What it had served in all its lives.",
                    ),
                ),
            ],
            options={"ordering": ["forgotten_at", "id"]},
        ),
    ]
