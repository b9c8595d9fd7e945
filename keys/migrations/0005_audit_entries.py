from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("keys", "0004_audit"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="auditentry",
            options={"ordering": ("-at", "-id"), "verbose_name_plural": "audit entries"},
        ),
    ]
